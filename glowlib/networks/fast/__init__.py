"""The same outputs with fewer operations: kernels that the networks' layers call.

linear.py (linear layers together with what follows them), attention.py (attention without its matrix in memory).
"""
