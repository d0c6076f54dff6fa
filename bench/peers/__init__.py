"""What Rolecall is measured against, each written as its documentation shows it."""
