"""Measures Forebay beside other programs, in one sitting, alternating: ratios, never absolutes."""
