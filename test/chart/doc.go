// Package chart tests charts/culvert without a cluster. Helm's own code lints and renders it,
// Kubernetes' own types decode the result, Kubernetes' rules for restricted pods check it, and the
// real binary parses its command lines and starts with them.
//
// It is a separate module so that culvert does not depend on Helm and Kubernetes.
package chart
