"""One file a trick: its formula, why it should help, whom it is due to, what off means, its
module."""
