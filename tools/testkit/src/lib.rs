//! What tests need: scripted remotes, dialogue runner.
