package metrics

// SampleFiveSeconds does what Sample does in five seconds.
func (m *Metrics) SampleFiveSeconds() {
	m.window.add(m.frame())
	for range frameEvery {
		m.count()
	}
}
