package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const goodRoute = goodGateway + `, httpRoute: {enabled: true, parentRefs: [{name: public, namespace: gateways}], hostnames: [kafka.example.com]`

// routeSchema is the schema of the HTTPRoute in the Gateway API's standard channel.
var routeSchema = sync.OnceValues(func() (*apiextensions.JSONSchemaProps, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"))
	if err != nil {
		return nil, err
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &definition); err != nil {
		return nil, err
	}
	var schema apiextensions.JSONSchemaProps
	return &schema, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(definition.Spec.Versions[0].Schema.OpenAPIV3Schema, &schema, nil)
})

// refusals returns what an API server says against a route: the schema's defaults, types and rules
// in CEL.
func refusals(t *testing.T, route *gatewayv1.HTTPRoute) field.ErrorList {
	t.Helper()
	schema, err := routeSchema()
	if err != nil {
		t.Fatal(err)
	}
	structural, err := structuralschema.NewStructural(schema)
	if err != nil {
		t.Fatal(err)
	}
	content, err := yaml.Marshal(route)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if content, err = yaml.YAMLToJSON(content); err == nil {
		err = json.Unmarshal(content, &object) // with whole numbers, as the rules want them
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(object, "status")
	defaulting.Default(object, structural)
	validator, _, err := validation.NewSchemaValidator(schema)
	if err != nil {
		t.Fatal(err)
	}
	errs := validation.ValidateCustomResource(nil, object, validator)
	rules, _ := cel.NewValidator(structural, true, celconfig.PerCallLimit).
		Validate(t.Context(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, rules...)
}

func TestRoutesMeetTheGatewayAPI(t *testing.T) {
	for _, c := range []struct {
		values string
		want   *gatewayv1.HTTPRouteTimeouts
	}{
		// Without limits, or the implementation's default would cut streams.
		{goodRoute + `}}`, &gatewayv1.HTTPRouteTimeouts{Request: ptr[gatewayv1.Duration]("0s"), BackendRequest: ptr[gatewayv1.Duration]("0s")}},
		{goodRoute + `, path: /kafka, timeouts: {request: 24h, backendRequest: 1h30m}}}`, &gatewayv1.HTTPRouteTimeouts{Request: ptr[gatewayv1.Duration]("24h"), BackendRequest: ptr[gatewayv1.Duration]("1h30m")}},
		{goodRoute + `, timeouts: {request: "", backendRequest: ""}}, tls: {existingSecret: tls}}`, nil},
	} {
		rendered := objects(t, parseValues(t, c.values))
		routes := all[*gatewayv1.HTTPRoute](rendered)
		if len(routes) != 1 {
			t.Fatalf("%s: %d routes, want 1", c.values, len(routes))
		}
		if errs := refusals(t, routes[0]); len(errs) > 0 {
			t.Errorf("%s: %v", c.values, errs.ToAggregate())
		}
		rule := routes[0].Spec.Rules[0]
		if diff := cmp.Diff(c.want, rule.Timeouts); diff != "" {
			t.Errorf("%s: timeouts (-want +rendered):\n%s", c.values, diff)
		}
		backend, service := rule.BackendRefs[0], all[*corev1.Service](rendered)[0]
		if string(backend.Name) != service.Name || *backend.Port != service.Spec.Ports[0].Port {
			t.Errorf("%s: the route leads to %s:%d, the Service is %s:%d", c.values, backend.Name, *backend.Port, service.Name, service.Spec.Ports[0].Port)
		}
	}
	eachFile(t, func(t *testing.T, values map[string]any) {
		for _, r := range all[*gatewayv1.HTTPRoute](objects(t, values)) {
			if errs := refusals(t, r); len(errs) > 0 {
				t.Error(errs.ToAggregate())
			}
		}
	})
}

// TestTheGatewayAPIRefusesWrongRoutes shows that the check above checks: a type, and a rule in CEL.
func TestTheGatewayAPIRefusesWrongRoutes(t *testing.T) {
	for values, says := range map[string]string{
		goodRoute + `, timeouts: {request: 10s, backendRequest: 20s}}}`: "backendRequest timeout cannot be longer than request timeout",
		goodRoute + `, path: "/a//b"}}`:                                 "must not contain '//'",
	} {
		errs := refusals(t, all[*gatewayv1.HTTPRoute](objects(t, parseValues(t, values)))[0])
		if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), says) {
			t.Errorf("%s\n\tsays: %v\n\twant: %s", values, errs.ToAggregate(), says)
		}
	}
}

func ptr[T any](v T) *T { return &v }
