"""Policies: pure functions of an epoch and their own state. Epoch in, plan out."""
