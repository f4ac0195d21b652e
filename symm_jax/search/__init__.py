"""What a trained network is used for: embedding one's own pictures, and the index folder that keeps the embeddings.

`symm_jax.search.Index` opens an index without JAX. embedder.py and build.py make one.
"""

from symm_jax.search.index import Index

__all__ = ["Index"]
