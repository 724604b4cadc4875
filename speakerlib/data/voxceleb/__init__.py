"""VoxCeleb from its lists or its archives to audio files: scraping, the ledger, reports, official archives."""
