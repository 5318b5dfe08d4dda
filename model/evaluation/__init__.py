"""How good a network is: figures, tables, plots, cards."""
