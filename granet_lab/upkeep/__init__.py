"""A lab's folder over months: checked, thinned, passed on."""
