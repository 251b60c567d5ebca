"""The bulk tool: what is requested, who answers, and inputs to rows in one stream."""
