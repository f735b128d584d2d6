"""run_epoch: the loop in one small file."""
