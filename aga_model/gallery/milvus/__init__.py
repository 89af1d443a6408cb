"""Galleries on a Milvus server."""
