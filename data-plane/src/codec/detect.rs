//! Tells HTTP/2 from HTTP/1 by the connection preface.
