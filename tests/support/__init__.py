"""What tests of every kind share: real services they may break, and loops to reach them from plain code."""
