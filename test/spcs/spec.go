package spcs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Specification has the fields that a service's specification may have, as
// https://docs.snowflake.com/en/developer-guide/snowpark-container-services/specification-reference
// lists them, without those that no file here uses.
type Specification struct {
	Spec struct {
		Containers   []Container `yaml:"containers"`
		Endpoints    []Endpoint  `yaml:"endpoints"`
		Volumes      []Volume    `yaml:"volumes"`
		LogExporters struct {
			EventTableConfig struct {
				LogLevel string `yaml:"logLevel"` // INFO, ERROR or NONE
			} `yaml:"eventTableConfig"`
		} `yaml:"logExporters"`
		PlatformMonitor struct {
			MetricConfig struct {
				Groups []string `yaml:"groups"`
			} `yaml:"metricConfig"`
		} `yaml:"platformMonitor"`
	} `yaml:"spec"`
	ServiceRoles []struct {
		Name      string   `yaml:"name"`
		Endpoints []string `yaml:"endpoints"`
	} `yaml:"serviceRoles"`
}

// Container is one of a service's containers.
type Container struct {
	Name              string            `yaml:"name"`
	Image             string            `yaml:"image"`
	Command           []string          `yaml:"command"`
	Args              []string          `yaml:"args"`
	Env               map[string]string `yaml:"env"`
	ReadinessProbe    *Probe            `yaml:"readinessProbe"`
	LivenessProbe     *Probe            `yaml:"livenessProbe"`
	MountSessionToken *bool             `yaml:"mountSessionToken"`
	Secrets           []Secret          `yaml:"secrets"`
	VolumeMounts      []struct {
		Name      string `yaml:"name"`
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	Resources struct {
		Requests Resources `yaml:"requests"`
		Limits   Resources `yaml:"limits"`
	} `yaml:"resources"`
}

// Probe is an HTTP GET that succeeds with status 200.
type Probe struct {
	Port             int    `yaml:"port"`
	Path             string `yaml:"path"`
	PeriodSeconds    int    `yaml:"periodSeconds"`
	FailureThreshold int    `yaml:"failureThreshold"`
}

// Secret is mounted as files in a directory, or set as a variable.
type Secret struct {
	SnowflakeSecret string `yaml:"snowflakeSecret"`
	DirectoryPath   string `yaml:"directoryPath"`
	EnvVarName      string `yaml:"envVarName"`
	SecretKeyRef    string `yaml:"secretKeyRef"`
}

// Resources are requests or limits.
type Resources struct {
	Memory string `yaml:"memory"`
	CPU    string `yaml:"cpu"`
}

// Endpoint is a port that others can reach.
type Endpoint struct {
	Name     string `yaml:"name"`
	Port     int    `yaml:"port"`
	Public   bool   `yaml:"public"`
	Protocol string `yaml:"protocol"` // TCP or HTTP; "" is HTTP
}

// Volume can be mounted by containers.
type Volume struct {
	Name   string `yaml:"name"`
	Source string `yaml:"source"`
	Size   string `yaml:"size"`

	BlockConfig *struct {
		InitialContents struct {
			FromSnapshot string `yaml:"fromSnapshot"`
		} `yaml:"initialContents"`
	} `yaml:"blockConfig"`
}

// Decode decodes a specification and rejects what Snowflake's documentation forbids.
func Decode(text string) (*Specification, error) {
	s := new(Specification)
	if err := decode([]byte(text), s); err != nil {
		return nil, err
	}
	return s, s.check()
}

var (
	name     = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	roleName = regexp.MustCompile(`^[A-Za-z](\w*[A-Za-z0-9])?$`)
	image    = regexp.MustCompile(`^(/[a-z]\w*){3}/[a-z0-9._-]+:[\w.-]+$`)
	memory   = regexp.MustCompile(`^[0-9]+(M|Mi|G|Gi)$`)
	cpu      = regexp.MustCompile(`^[0-9.]+m?$`)
	block    = regexp.MustCompile(`^[1-9][0-9]*Gi$`)
)

func (s *Specification) check() (err error) {
	wrong := func(format string, args ...any) { err = errors.Join(err, fmt.Errorf(format, args...)) }
	if len(s.Spec.Containers) == 0 {
		wrong("no container")
	}
	for _, c := range s.Spec.Containers {
		err = errors.Join(err, c.check(s.Spec.Volumes))
	}
	for _, e := range s.Spec.Endpoints {
		switch {
		case !name.MatchString(e.Name) || e.Port < 1 || e.Port > 65535:
			wrong("endpoint %+v", e)
		case e.Protocol != "" && e.Protocol != "TCP" && e.Protocol != "HTTP":
			wrong("endpoint %s: protocol %s", e.Name, e.Protocol)
		case e.Public && e.Protocol == "TCP":
			wrong("endpoint %s: what is public is HTTP", e.Name)
		}
	}
	for _, v := range s.Spec.Volumes {
		if !name.MatchString(v.Name) || v.Source == "block" && !block.MatchString(v.Size) || v.Source != "block" && v.BlockConfig != nil {
			wrong("volume %+v", v)
		}
	}
	for _, r := range s.ServiceRoles {
		if !roleName.MatchString(r.Name) || len(r.Endpoints) == 0 {
			wrong("service role %+v", r)
		}
		for _, e := range r.Endpoints {
			if !slices.ContainsFunc(s.Spec.Endpoints, func(of Endpoint) bool { return of.Name == e }) {
				wrong("service role %s: no endpoint %s", r.Name, e)
			}
		}
	}
	if level := s.Spec.LogExporters.EventTableConfig.LogLevel; !slices.Contains([]string{"", "INFO", "ERROR", "NONE"}, level) {
		wrong("log level %s", level)
	}
	return err
}

func (c *Container) check(volumes []Volume) (err error) {
	wrong := func(format string, args ...any) {
		err = errors.Join(err, fmt.Errorf("container %s: %w", c.Name, fmt.Errorf(format, args...)))
	}
	if !name.MatchString(c.Name) {
		wrong("no name for a container")
	}
	if !image.MatchString(c.Image) {
		wrong("image %s is not /database/schema/repository/name:tag", c.Image)
	}
	for _, p := range []*Probe{c.ReadinessProbe, c.LivenessProbe} {
		if p != nil && (p.Port < 1 || p.Port > 65535 || !strings.HasPrefix(p.Path, "/")) {
			wrong("probe %+v", *p)
		}
	}
	for _, s := range c.Secrets {
		if (s.DirectoryPath == "") == (s.EnvVarName == "") || (s.SecretKeyRef == "") != (s.EnvVarName == "") || s.SnowflakeSecret == "" {
			wrong("secret %+v: either a directory, or a variable and a key", s)
		}
	}
	for _, m := range c.VolumeMounts {
		if !strings.HasPrefix(m.MountPath, "/") || !slices.ContainsFunc(volumes, func(v Volume) bool { return v.Name == m.Name }) {
			wrong("mount %+v", m)
		}
	}
	for _, r := range []Resources{c.Resources.Requests, c.Resources.Limits} {
		if r.Memory != "" && !memory.MatchString(r.Memory) || r.CPU != "" && !cpu.MatchString(r.CPU) {
			wrong("resources %+v", r)
		}
	}
	return err
}
