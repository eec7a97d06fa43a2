"""Training: one table of stages (`recipes`), one loop for all of them (`loop`), one task per stage."""
