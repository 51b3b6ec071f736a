"""Reports: what people see. They read only a diagnosis, never the user's process."""
