"""Who may ask for what: API keys, scopes and rates."""
