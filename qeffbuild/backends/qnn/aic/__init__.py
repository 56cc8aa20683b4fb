"""Cloud AI 100 by the QNN SDK: documents, and its converter and context binary generator."""
