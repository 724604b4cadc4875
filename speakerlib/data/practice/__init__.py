"""A practice job for scraping: small lists, synthetic videos, and a server on this computer that fails on demand."""
