"""What tests/vectors/protocol/ holds, made anew from the code: tests/vectors/README.md says how to
read it."""
