CREATE VIEW turnover AS
SELECT customer_id, date_trunc('month', placed_at) AS month, sum(amount) AS amount
FROM orders
GROUP BY customer_id, month;
