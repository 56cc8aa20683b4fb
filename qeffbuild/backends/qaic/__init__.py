"""Cloud AI 100: graphs, documents and the command line for its compiler; see docs/cloud_ai_100.md."""
