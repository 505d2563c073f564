"""How fast a gradient is, and how right: isolated workers, interleaved rounds, verdicts with intervals."""
