def test_a(dies): print(dies.bundle, dies.read().card.model_dump_json(indent=1)[:3000])
def test_b(maps): print(maps.bundle, maps.read().card.canvas, maps.read().card.image_threshold)
