package chart

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// On a real server Helm's own patches went wrong: adding UDP made TCP 443 into UDP 443, and removing
// it pointed TCP 443 at port 443 of the pods.
func TestPortChangesDoNotRelyOnHelmsPatches(t *testing.T) {
	tcp := corev1.ServicePort{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443}
	udp := corev1.ServicePort{Name: "http3", Protocol: corev1.ProtocolUDP, Port: 443}
	for _, c := range []struct {
		name  string
		there []corev1.ServicePort
		by    metav1.ManagedFieldsOperationType
		udp   string
		says  string // "": it is rendered
	}{
		{"UDP joins", []corev1.ServicePort{tcp}, metav1.ManagedFieldsOperationUpdate, "same",
			`kubectl -n orders patch service culvert-gateway --type=json -p '[{"op":"add","path":"/spec/ports/-","value":{"name":"http3","protocol":"UDP","port":443,"targetPort":"http3"}}]'`},
		{"UDP leaves", []corev1.ServicePort{tcp, udp}, metav1.ManagedFieldsOperationUpdate, "none", "kubectl -n orders delete service culvert-gateway\n"},
		{"UDP gets a Service of its own", []corev1.ServicePort{udp, tcp}, metav1.ManagedFieldsOperationUpdate, "separate", "kubectl -n orders delete service culvert-gateway\n"},
		{"UDP is there", []corev1.ServicePort{tcp, udp}, metav1.ManagedFieldsOperationUpdate, "same", ""},
		{"no UDP is there", []corev1.ServicePort{tcp}, metav1.ManagedFieldsOperationUpdate, "none", ""},
		{"UDP joins on the server", []corev1.ServicePort{tcp}, metav1.ManagedFieldsOperationApply, "same", ""},
		{"UDP leaves on the server", []corev1.ServicePort{tcp, udp}, metav1.ManagedFieldsOperationApply, "none", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			installed := newCluster(&corev1.Service{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
				ObjectMeta: metav1.ObjectMeta{Name: "culvert-gateway", Namespace: namespace, ManagedFields: []metav1.ManagedFieldsEntry{
					{Manager: "helm", Operation: c.by}, {Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationApply},
				}},
				Spec: corev1.ServiceSpec{Ports: c.there},
			})
			_, err := render(parseValues(t, goodGateway+`, tls: {existingSecret: tls}, service: {udp: `+c.udp+`}}`), installed)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("says: %v\nwant: %s", err, c.says)
			}
		})
	}
}
