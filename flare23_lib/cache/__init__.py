"""Results that are kept: content keys, metadata, records."""
