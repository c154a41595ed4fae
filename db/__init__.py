"""Tables, state changes, dispatch, sweep and queries: all SQL of Textmill."""
