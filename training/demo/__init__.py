"""The embedded shop: listings, drawings, queries and exact judgments."""
