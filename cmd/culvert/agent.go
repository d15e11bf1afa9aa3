package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/status"
)

// agentCmd is culvert agent. Its flags are in plan.go.
type agentCmd struct{ agentFlags }

// Help is printed below the flags.
func (*agentCmd) Help() string {
	return `HTTPS_PROXY and NO_PROXY are honoured; h3 is not tried through a proxy.

Example:
  culvert agent --gateway-url https://kafka.example.com --token-file token.txt
  kcat -L -b 127.0.0.1:9092

With a gateway in Snowpark Container Services:
  culvert agent --gateway-url https://ab1cd-myorg-myaccount.snowflakecomputing.app \
    --token-file token.txt --snowflake-pat-file pat.txt`
}

// Run serves until a signal ends ctx and connections have drained.
func (c *agentCmd) Run(ctx context.Context, a *app) error {
	// What can be wrong is found before a port opens: settings by check, the content of files by
	// build.
	plan, err := c.check()
	if err != nil {
		return err
	}
	defer plan.close()
	if plan.list {
		return c.printForwards(ctx, plan, a, a.log)
	}
	overview, log := newOverview(a.log)
	registry := prometheus.NewRegistry()
	agent, err := c.build(plan, registry, log)
	if err != nil {
		return err
	}
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	watched, err := watchCertificates(ctx, agent.Metrics, overview, log, c.certificates()...)
	if err != nil {
		return err
	}
	defer watched()
	overview.of, overview.files, overview.logins = agent.Status, givenFiles(c.credentialFiles()), plan.logins
	admin, err := listenAdmin(c.AdminListen, c.AdminPage, status.Server{
		Names:    flagOf,
		Gatherer: registry, Ready: agent.Ready, Status: overview.document, Profiles: c.AdminPprof, Hosts: nonBlank(c.AdminHost), Logger: log,
	})
	if err != nil {
		return err
	}
	overview.admin = admin
	manager := newServiceManager(log)
	agent.Listening = func(bootstrap []string) {
		c.warn(plan, log)
		a.say(fmt.Sprintf("culvert agent listening: bootstrap %s, brokers %s%s, %s, %s",
			strings.Join(bootstrap, ", "), c.placeOfBrokers(plan), namedForwards(plan.forwards), plan.destination(), admin))
		manager.listening()
	}
	agent.Answered = func(p proxy.Path) {
		a.say("culvert agent ready: " + readyText(p))
		overview.events.Note("culvert agent ready")
	}
	err = manager.during(ctx, c.DrainTimeout, agent.Ready, func(ctx context.Context) error { return admin.during(ctx, agent.Run) })
	if le, ok := errors.AsType[*proxy.ListenError](err); ok {
		flag := "--listen"
		if le.Forward != "" {
			flag = "--forward"
		}
		return listenFailed(le.Err, le.Address, flag)
	}
	return err
}

// placeOfBrokers says where clients reach brokers, for the line with "listening".
func (c *agentCmd) placeOfBrokers(p *agentPlan) string {
	if !p.names.IsZero() {
		return "there as " + p.names.String()
	}
	return fmt.Sprintf("from port %d", c.BrokerPortBase)
}

// maxNodesShown bounds the brokers that the line with "ready" lists.
const maxNodesShown = 32

// readyText says which cluster answered, where its brokers are for clients, and how it was reached.
// What is not known is said too.
func readyText(p proxy.Path) string {
	cluster, brokers := "cluster "+p.ClusterID, make([]string, 0, maxNodesShown)
	if p.ClusterID == "" {
		cluster = "a broker answered; the cluster is known only after a client logs in"
	}
	for _, n := range p.Nodes[:min(len(p.Nodes), maxNodesShown)] {
		brokers = append(brokers, fmt.Sprintf("broker %d at %s", n.ID, n.Address))
	}
	switch more := len(p.Nodes) - len(brokers); {
	case more > 0:
		brokers = append(brokers, fmt.Sprintf("%d more brokers", more))
	case len(brokers) == 0 && p.ClusterID != "":
		brokers = append(brokers, "brokers are known only after a client asks for them")
	}
	how := []string{cluster}
	how = append(how, brokers...)
	how = append(how, "over "+p.Transport, fmt.Sprintf("round trip %v", roundDuration(p.RoundTrip)))
	return strings.Join(how, ", ")
}
