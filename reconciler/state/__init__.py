"""The one vocabulary that planning compares: desired, observed, conditions."""
