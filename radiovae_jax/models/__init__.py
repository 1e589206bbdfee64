"""Networks (Linen). They know no loss."""
