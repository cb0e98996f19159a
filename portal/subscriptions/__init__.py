"""Subscriptions: products, plans, activation codes, terms, seats and sharing."""
