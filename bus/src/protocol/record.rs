//! Messages into records and back (filled in by the memory and transport part).
