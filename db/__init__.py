"""The shared pool, and one module per table: the table, then its queries. Code in here never commits."""
