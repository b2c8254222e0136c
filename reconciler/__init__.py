"""Declarative GitOps reconciler for database images and clones."""
