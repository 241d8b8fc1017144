"""Facts of an attempt that outlive its supervisor."""
