// Package chart tests charts/culvert without a cluster: Helm's own code lints and renders it,
// Kubernetes' own types decode what comes out, its own rules for restricted pods judge it, and the
// real binary reads its command lines and starts with them.
//
// It is a module of its own, so that Helm and Kubernetes are no dependencies of culvert.
package chart
