"""Scraping VoxCeleb: its URL lists, a ledger of every video, utterances, reports and manifests."""
