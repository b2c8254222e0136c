--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE TABLE public.customer (
    customer_id integer NOT NULL,
    name text NOT NULL,
    region text
);

ALTER TABLE public.customer OWNER TO shop_owner;

CREATE TABLE public.orders (
    order_id integer NOT NULL,
    customer_id integer NOT NULL,
    placed_at date NOT NULL,
    amount numeric(10,2) NOT NULL
);

ALTER TABLE public.orders OWNER TO shop_owner;

COPY public.customer (customer_id, name, region) FROM stdin;
1	Blue Door Café	eu
2	Næs & Partners	\N
3	Zoë's Garden	eu
\.

COPY public.orders (order_id, customer_id, placed_at, amount) FROM stdin;
1	1	2024-11-02	19.90
2	1	2026-01-15	250.00
3	2	2026-03-09	12.50
4	3	2026-07-30	99.99
\.

ALTER TABLE ONLY public.customer
    ADD CONSTRAINT customer_pkey PRIMARY KEY (customer_id);

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (order_id);

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES public.customer(customer_id);

GRANT SELECT ON TABLE public.customer TO shop_reader;

--
-- PostgreSQL database dump complete
--

