package chart

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	goodGateway = `gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {existingSecret: t}`
	goodAgent   = `agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-2, gatewayTLS: {client: {existingSecret: agent-tls}}`
)

func TestBadValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ values, says string }{
		// By the schema: wrong names and forms.
		{`gatway: {}`, "additional properties 'gatway' not allowed"},
		{`gateway: {replica: 2}`, "additional properties 'replica' not allowed"},
		{`agent: {token: {secretName: x}}`, "additional properties 'secretName' not allowed"},
		{`agent: {snowflake: {pat: {existing: x}}}`, "additional properties 'existing' not allowed"},
		{`gateway: {replicas: "2"}`, "/gateway/replicas': got string, want integer"},
		{`gateway: {service: {type: Loadbalancer}}`, "/gateway/service/type': value must be one of"},
		{`gateway: {service: {udp: "yes"}}`, "/gateway/service/udp': value must be one of"},
		{`gateway: {service: {port: 99999}}`, "/gateway/service/port'"},
		{`gateway: {brokers: {bootstrap: [kafka]}}`, "/gateway/brokers/bootstrap/0': 'kafka' does not match pattern"},
		{`gateway: {brokers: {bootstrap: "kafka:9092"}}`, "/gateway/brokers/bootstrap': got string, want array"},
		{`gateway: {brokers: {allow: ["10.0.0.0/8"]}}`, "/gateway/brokers/allow/0'"},
		{`gateway: {tokens: {values: {laptop: ""}}}`, "/gateway/tokens/values/laptop'"},
		{`gateway: {tokens: {values: {laptop: "a b"}}}`, "/gateway/tokens/values/laptop'"},
		{`gateway: {tokens: {values: {"a=b": x}}}`, "'a=b' does not match pattern"},
		{`gateway: {logLevel: verbose}`, "/gateway/logLevel': value must be one of"},
		{`gateway: {extraArgs: ["log-level=debug"]}`, "/gateway/extraArgs/0'"},
		{`gateway: {extraEnv: [{value: x}]}`, "missing property 'name'"},
		{`gateway: {ingress: {path: kafka}}`, "/gateway/ingress/path'"},
		{`gateway: {httpRoute: {hostnames: ["https://kafka.example.com"]}}`, "/gateway/httpRoute/hostnames/0'"},
		{`gateway: {httpRoute: {hostnames: ["*.example.com"]}}`, "/gateway/httpRoute/hostnames/0'"},
		{`gateway: {httpRoute: {parentRefs: [{namespace: gateways}]}}`, "missing property 'name'"},
		{`gateway: {httpRoute: {timeouts: {request: 0}}}`, "/gateway/httpRoute/timeouts/request'"},
		{`gateway: {httpRoute: {timeouts: {idle: 10m}}}`, "additional properties 'idle' not allowed"},
		{`gateway: {forwards: {schema-registry: 8081}}`, "/gateway/forwards/schema-registry'"},
		{`gateway: {forwards: {"schema registry": "registry:8081"}}`, "'schema registry' does not match pattern"},
		{`gateway: {auditLog: audit.json}`, "/gateway/auditLog'"},
		{`gateway: {proxyProtocol: [10.0.0.1]}`, "/gateway/proxyProtocol/0'"},
		{`gateway: {extraContainers: [{name: gateway, image: x}]}`, "/gateway/extraContainers/0/name'"},
		{`agent: {extraInitContainers: [{name: login}]}`, "missing property 'image'"},
		{`agent: {hostAliases: [{ip: 10.0.0.1}]}`, "missing property 'hostnames'"},
		{`agent: {dnsPolicy: default}`, "/agent/dnsPolicy': value must be one of"},
		{`agent: {dnsConfig: {servers: [10.0.0.1]}}`, "invalid propertyName 'servers'"},
		{`agent: {forwards: {schema-registry: "127.0.0.1:8081"}}`, "/agent/forwards/schema-registry'"},
		{`agent: {gatewayUrls: ["http://kafka.example.com"]}`, "/agent/gatewayUrls/0'"},
		{`agent: {gatewayUrls: https://kafka.example.com}`, "/agent/gatewayUrls': got string, want array"},
		{`agent: {expectNodes: [0, 1]}`, "/agent/expectNodes'"},
		{`agent: {expectNodes: "0-2, 5"}`, "/agent/expectNodes'"},
		{`agent: {expectNodes: -1}`, "/agent/expectNodes'"},
		{`agent: {brokerPortBase: 0}`, "/agent/brokerPortBase'"},
		{`agent: {brokerNames: broker.kafka.example.com}`, "/agent/brokerNames'"},
		{`agent: {brokerNames: "broker-{id}.kafka.example.com:9092"}`, "/agent/brokerNames'"},
		{`agent: {advertisedHost: "kafka.example.com:9092"}`, "/agent/advertisedHost'"},
		{`agent: {transport: quic}`, "/agent/transport': value must be one of"},
		{`agent: {service: {type: NodePort}}`, "/agent/service/type': value must be one of"},
		{`agent: {drainTimeoutSeconds: 0}`, "/agent/drainTimeoutSeconds'"},
		{`agent: {podDisruptionBudget: {maxUnavailable: "half"}}`, "/agent/podDisruptionBudget/maxUnavailable'"},
		{`image: {digest: latest}`, "/image/digest'"},
		{`image: {repository: ""}`, "/image/repository'"},
		{`prometheusRule: {severity: critical}`, "additional properties 'severity' not allowed"},
		{`dashboards: {labels: {grafana_dashboard: 1}}`, "/dashboards/labels/grafana_dashboard': got number, want string"},

		// By the templates: settings that contradict each other, or name what is not there.
		{`prometheusRule: {enabled: true, disabled: [CulvertDwon]}`, `prometheusRule.disabled: there is no alert "CulvertDwon"`},
		{`gateway: {enabled: true, tokens: {existingSecret: t}}`, "gateway.brokers.bootstrap is empty"},
		{`gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}}`, "anybody could come in"},
		{goodGateway + `, insecureNoAuth: true}`, "leave one out"},
		{`gateway: {enabled: true, brokers: {bootstrap: ["kafka:9092"]}, tokens: {existingSecret: t, values: {a: b}}}`, "gateway.tokens: existingSecret and values are both set"},
		{goodGateway + `, ticketKey: {existingSecret: a, value: b}}`, "gateway.ticketKey: existingSecret and value are both set"},
		{goodGateway + `, clientCA: {existingSecret: ca}}`, "gateway.clientCA: without gateway.tls"},
		{goodGateway + `, service: {udp: same}}`, "gateway.service.udp same: without gateway.tls there is no HTTP/3"},
		{goodGateway + `, ingress: {enabled: true}}`, "gateway.ingress.host is empty"},
		{goodGateway + `, httpRoute: {enabled: true, hostnames: [kafka.example.com]}}`, "gateway.httpRoute.parentRefs is empty"},
		{goodGateway + `, httpRoute: {enabled: true, parentRefs: [{name: public}]}}`, "gateway.httpRoute.hostnames is empty"},
		{`agent: {enabled: true, expectNodes: 0-2}`, "agent.gatewayUrls is empty"},
		{goodAgent + `, forwards: {schema-registry: 9092}}`, "agent.forwards.schema-registry: 9092 is agent.port"},
		{goodAgent + `, forwards: {schema-registry: 9464}}`, "agent.forwards.schema-registry: 9464 is the admin port"},
		{goodAgent + `, forwards: {schema-registry: 19094}}`, "agent.forwards.schema-registry: 19094 is the port of node 2"},
		{goodAgent + `, forwards: {a: 8081, b: 8081}}`, "agent.forwards.b: 8081 is the port of agent.forwards.a"},
		{goodAgent + `, forwards: {kafka: 8081}}`, "agent.forwards.kafka: the Service has a port of that name already"},
		{goodAgent + `, forwards: {broker-7: 8081}}`, "agent.forwards.broker-7: the Service has a port of that name already"},
		{goodAgent + `, anonymous: true}`, "agent.anonymous: true says that there are no credentials, and there are"},
		{`agent: {enabled: true, anonymous: true, gatewayUrls: ["https://kafka.example.com"]}`, "agent.expectNodes is empty"},
		{`agent: {enabled: true, anonymous: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 5-2}`, "the range ends before it begins"},
		{`agent: {enabled: true, anonymous: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-2000000000}`, "ports end at 65535"},
		{`agent: {enabled: true, anonymous: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-99999999999999999999}`, "ports end at 65535"},
		{`agent: {enabled: true, anonymous: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-1024}`, "more than 1024 nodes"},
		{goodAgent + `, brokerPortBase: 9092}`, "node 0 would have port 9092, which is taken"},
		{goodAgent + `, brokerPortBase: 9463}`, "node 1 would have port 9464, which is taken"},
		{goodAgent + `, brokerNames: "broker-{id}.kafka.example.com"}`, "without agent.listenTLS.existingSecret clients do not say which name"},
		{goodAgent + `, token: {existingSecret: a, value: b}}`, "agent.token: existingSecret and value are both set"},
		{goodAgent + `, service: {type: LoadBalancer}}`, "set agent.advertisedHost"},
		{goodAgent + `, service: {type: LoadBalancer}, advertisedHost: kafka.example.com}`, "say with agent.networkPolicy.from who else may come"},
		{goodAgent + `, listenTLS: {clientCA: {existingSecret: ca}}}`, "clients show no certificates"},
		{goodAgent + `, snowflake: {pat: {existingSecret: a, value: b}}}`, "agent.snowflake.pat: existingSecret and value are both set"},
		{goodAgent + `, snowflake: {pat: {value: b}, privateKey: {existingSecret: a}}}`, "agent.snowflake: pat and privateKey are both set"},
		{goodAgent + `, snowflake: {pat: {existingSecret: a}, role: x}}`, "account, user and role are for a privateKey"},
		{goodAgent + `, snowflake: {privateKey: {existingSecret: a}, account: x}}`, "agent.snowflake.user, whose key it is"},
	} {
		_, err := render(parseValues(t, c.values), nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s\n\tsays: %v\n\twant: %s", c.values, err, c.says)
		}
	}
	for _, good := range []string{goodGateway + "}", goodAgent + "}"} {
		if _, err := render(parseValues(t, good), nil); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// An agent without credentials is refused by the schema, with a sentence, before the gateway refuses
// it: unless anonymous says that this is meant.
func TestAnAgentNeedsCredentials(t *testing.T) {
	const without = `agent: {enabled: true, gatewayUrls: ["https://kafka.example.com"], expectNodes: 0-2`
	for _, c := range []struct {
		values  string
		refused bool
	}{
		{without + `}`, true},
		{without + `, extraArgs: ["--max-connections=20000"], extraEnv: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]}`, true},
		{without + `, token: {key: other}, gatewayTLS: {ca: {existingSecret: ca}}}`, true},
		{without + `, anonymous: true}`, false},
		{without + `, token: {value: x}}`, false},
		{without + `, token: {existingSecret: x}}`, false},
		{without + `, gatewayTLS: {client: {existingSecret: x}}}`, false},
		{without + `, snowflake: {pat: {existingSecret: x}}}`, false},
		{without + `, snowflake: {pat: {value: x}}}`, false},
		{without + `, snowflake: {privateKey: {existingSecret: x}, account: a, user: u}}`, false},
		{without + `, extraArgs: ["--token-file=/vault/secrets/token"]}`, false},
		{without + `, extraEnv: [{name: CULVERT_TOKEN_FILE, value: /vault/secrets/token}]}`, false},
		{`agent: {enabled: true, gatewayUrls: ["tcp://kafka:9092"], expectNodes: 0-2}`, false}, // no gateway
	} {
		_, err := render(parseValues(t, c.values), nil)
		const says = "at '/agent': missing property 'credentials for the gateway: set token, gatewayTLS.client or snowflake; or anonymous: true,"
		if c.refused && (err == nil || !strings.Contains(err.Error(), says)) || !c.refused && err != nil {
			t.Errorf("%s\n\tsays: %v\n\twant refused: %v", c.values, err, c.refused)
		}
	}
}

// values.yaml must contain every key of the schema, with a comment.
func TestValuesListEveryKeyOfTheSchema(t *testing.T) {
	var schema map[string]any
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	definitions := schema["definitions"].(map[string]any)
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		if ref, ok := schema["$ref"].(string); ok {
			schema = definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
		}
		properties, _ := schema["properties"].(map[string]any)
		if properties != nil && schema["additionalProperties"] != false {
			t.Errorf("%s accepts unknown keys", path)
		}
		for name, property := range properties {
			value, ok := values[name]
			if !ok && path+name != "global" && !strings.HasSuffix(path, "resources.") {
				t.Errorf("%s%s is in the schema but not in values.yaml", path, name)
			}
			if inner, ok := value.(map[string]any); ok {
				compare(path+name+".", property.(map[string]any), inner)
			}
		}
	}
	compare("", schema, values)
}
