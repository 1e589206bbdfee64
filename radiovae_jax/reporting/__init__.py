"""Pictures and pages: curves, figures, the HTML report."""
