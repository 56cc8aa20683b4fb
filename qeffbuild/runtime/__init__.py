"""Package -> tokens: requests are scheduled into slots, run through a session, and come out as events with text."""
