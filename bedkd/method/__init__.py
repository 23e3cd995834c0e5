"""BeDKD, read beside the paper: Eq. 1-6, DMM, MEPD, AKD."""
