"""What is shown of a measurement: while it runs, as a table, as a page, and compared with another."""
