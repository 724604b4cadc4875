"""VoxCeleb's official archives: download, extract, convert."""
