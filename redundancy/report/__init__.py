"""The report on a finished experiment: statistics, figures, galleries and the page that holds them."""
