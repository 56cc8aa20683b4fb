"""QEfficient's command lines, keywords and qconfig.json, in the words of a build; see docs/qefficient.md."""
