"""Did a change make anything worse? Stored baselines, side-by-side launches, one decision."""
