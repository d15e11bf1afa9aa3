package chart

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

// cluster contains objects that templates can look up.
type cluster struct{ client dynamic.Interface }

func newCluster(objects ...runtime.Object) cluster {
	return cluster{fake.NewSimpleDynamicClient(scheme.Scheme, objects...)}
}

func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return c.client.Resource(schema.GroupVersionResource{Version: apiVersion, Resource: strings.ToLower(kind) + "s"}), true, nil
}
