// Package compose checks charts/compose against Compose's own schema and rules, and the command
// lines in it against the binary. It is a separate module, so that building culvert does not need
// Compose.
package compose
