"""The accelerator tier: hot pages of a tensor in HBM, the rest in host memory."""
